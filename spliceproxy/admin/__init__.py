"""What operators ask a running proxy: the admin process, and the control channel to each worker."""
