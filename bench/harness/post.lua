-- One query, posted again and again. Every answer is compared; what is wrong is counted, not shown.
local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

wrk.method = "POST"
wrk.headers["Content-Type"] = os.getenv("SHOAL_BENCH_CONTENT_TYPE")
wrk.body = read(os.getenv("SHOAL_BENCH_QUERY"))

local answer = read(os.getenv("SHOAL_BENCH_ANSWER"))
local whole = os.getenv("SHOAL_BENCH_WHOLE") == "1"
wrong = 0

function response(status, _, body)
  -- Some servers end a JSON body with a line break. Other statuses than 200 are counted here too, since
  -- wrk itself takes every 2xx and 3xx for a success.
  local right = body == answer or body == answer .. "\n"
  if not whole then
    right = body:find(answer, 1, true)
  end
  if status ~= 200 or not right then
    wrong = wrong + 1
  end
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function done(summary, latency)
  local mistakes = 0
  for _, thread in ipairs(threads) do
    mistakes = mistakes + thread:get("wrong")
  end
  local errors = summary.errors
  io.write(string.format(
    'SHOAL-BENCH {"requests": %d, "microseconds": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"wrong": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency.max, mistakes, errors.connect, errors.read, errors.write, errors.timeout))
end
