-- 128 KiB ranges of an 8 MiB object, in turn, made once.
local reqs, n = {}, 0
init = function(args)
  for i = 0, 63 do
    local first = i * 131072
    reqs[i] = wrk.format("GET", nil, { Range = "bytes=" .. first .. "-" .. (first + 131071) })
  end
end
request = function()
  n = (n + 1) % 64
  return reqs[n]
end
