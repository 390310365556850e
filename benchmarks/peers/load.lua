-- What wrk sends: arguments are the body, then headers as NAME=VALUE, or @FILE, whose keys take turns.
-- It counts what it sends, and prints one line of JSON.
local threads, keys, at = {}, {}, 0

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  sent = 0
  wrk.method = "POST"
  wrk.body = arguments[1]
  wrk.headers["content-type"] = "application/json"
  for i = 2, #arguments do
    local file = arguments[i]:match("^@(.*)$")
    if file then
      for line in io.lines(file) do table.insert(keys, line) end
    else
      local name, value = arguments[i]:match("^([^=]+)=(.*)$")
      wrk.headers[name] = value
    end
  end
  whole = wrk.format()
end

function request()
  sent = sent + 1
  if #keys == 0 then return whole end
  at = at % #keys + 1
  wrk.headers["authorization"] = "Bearer " .. keys[at]
  return wrk.format()
end

function done(summary, latency)
  local all = -1 -- wrk makes the first request of all to look at it
  for _, thread in ipairs(threads) do all = all + thread:get("sent") end
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '{"requests":%d,"sent":%d,"seconds":%.6f,"bytes":%d,"p50":%.6f,"p95":%.6f,"p99":%.6f,"failed":%d}\n',
    summary.requests, all, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1e6,
    latency:percentile(95) / 1e6, latency:percentile(99) / 1e6, failed))
end
