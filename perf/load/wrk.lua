-- wrk: GET of $TARGET with Host: $HOST, and with the credentials $PROXY_AUTHORIZATION if there
-- are any; with $HOSTS above 1 for so many hosts of 127.0.0.0/8 by turns, in place of the
-- 127.0.0.1 of both; at the end one JSON object.
wrk.path = os.getenv("TARGET")
wrk.headers["Host"] = os.getenv("HOST")
wrk.headers["Proxy-Authorization"] = os.getenv("PROXY_AUTHORIZATION")

local hosts = tonumber(os.getenv("HOSTS") or 1)
if hosts > 1 then
  local requests, at = {}, 0

  function init()
    local path, host = wrk.path, os.getenv("HOST")
    for i = 1, hosts do
      local name = string.format("127.%d.%d.%d", math.floor(i / 65536), math.floor(i / 256) % 256, i % 256)
      wrk.headers["Host"] = host:gsub("127%.0%.0%.1", name, 1)
      requests[i] = wrk.format("GET", (path:gsub("127%.0%.0%.1", name, 1)))
    end
  end

  function request()
    at = at % hosts + 1
    return requests[at]
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"seconds": %.4f, "requests": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "broken": %d, '
      .. '"errors": %d, "first_error": "%d other statuses, %d connects, %d writes, %d timeouts"}\n',
    summary.duration / 1e6, summary.requests, summary.bytes, latency:percentile(50),
    latency:percentile(99), e.read, e.status + e.connect + e.write + e.timeout,
    e.status, e.connect, e.write, e.timeout))
end
