-- Adds to carts: POST to a path made from a template, every request built once and kept.
-- Arguments after "--": the path with {key} in it, the number of keys, a seed.
-- One JSON line at the end holds everything that bench/load.py reads.

local skus = {"tea", "mug", "pot", "tin", "jar"}
local requests = {}
local keys_count

function init(args)
  local path, seed = args[1], tonumber(args[3])
  keys_count = tonumber(args[2])
  math.randomseed(seed)
  local headers = {["Content-Type"] = "application/json"}
  for index = 1, keys_count do
    local address = path:gsub("{key}", "cart-" .. index)
    -- Cart n knows 1 to 5 SKUs, so replies stay short and alike on every server.
    requests[index] = {}
    for sku = 1, 1 + index % 5 do
      local body = '{"sku": "' .. skus[sku] .. '", "qty": 1}'
      requests[index][sku] = wrk.format("POST", address, headers, body)
    end
  end
end

function request()
  local cart = requests[math.random(keys_count)]
  return cart[math.random(#cart)]
end

function done(summary, latency)
  local errors = summary.errors
  local line = '{"requests": %d, "duration_us": %d, "status_errors": %d, "socket_errors": %d, ' ..
    '"p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n'
  io.write(line:format(
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
