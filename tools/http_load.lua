-- The requests of tools/http-load for wrk: WRK_OP says which, WRK_KEYS over how many keys, WRK_BYTES how long values are.
local op, keys, bytes = os.getenv("WRK_OP"), tonumber(os.getenv("WRK_KEYS")), tonumber(os.getenv("WRK_BYTES"))
local value = string.rep("x", bytes)
local threads = {}

function setup(thread)
    thread:set("number", #threads + 1)
    table.insert(threads, thread)
end

function init()
    math.randomseed(number)
    wrong = 0
end

function request()
    local key = "http-load:" .. math.random(keys)
    if op == "get" then return wrk.format("GET", "/get?key=" .. key) end
    if op == "read" then return wrk.format("GET", "/v1/kv/" .. key) end
    if op == "put" then return wrk.format("PUT", "/v1/kv/" .. key, nil, value) end
    local body = '{"key":"' .. key .. '","value":"' .. value .. '"}'
    return wrk.format("POST", "/set", { ["content-type"] = "application/json" }, body)
end

function response(status)
    if status ~= 200 then wrong = wrong + 1 end
end

function done(summary, latency)
    local refused = 0
    for _, thread in ipairs(threads) do refused = refused + thread:get("wrong") end
    local errors = summary.errors
    io.write(string.format(
        '{"op":"%s","requests":%d,"seconds":%.3f,"qps":%.0f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,' ..
        '"refused":%d,"broken":%d}\n',
        op, summary.requests, summary.duration / 1e6, summary.requests / (summary.duration / 1e6),
        latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000, refused,
        errors.connect + errors.read + errors.write + errors.timeout))
end
