-- wrk: GET of $TARGET with Host: $HOST, and with the credentials $PROXY_AUTHORIZATION if there
-- are any; at the end one JSON object.
wrk.path = os.getenv("TARGET")
wrk.headers["Host"] = os.getenv("HOST")
wrk.headers["Proxy-Authorization"] = os.getenv("PROXY_AUTHORIZATION")

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"seconds": %.4f, "requests": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "broken": %d, '
      .. '"errors": %d, "first_error": "%d other statuses, %d connects, %d writes, %d timeouts"}\n',
    summary.duration / 1e6, summary.requests, summary.bytes, latency:percentile(50),
    latency:percentile(99), e.read, e.status + e.connect + e.write + e.timeout,
    e.status, e.connect, e.write, e.timeout))
end
