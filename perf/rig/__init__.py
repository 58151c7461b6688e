"""What the suites and the benchmark share: proxies, origins, load programs, what /proc says."""
