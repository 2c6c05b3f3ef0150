-- SPDX-License-Identifier: Apache-2.0
-- What wrk measured, as one line of JSON. There is no request function: the load stays wrk's own, in C.
function done(summary, latency, requests)
  local parts = {}
  for _, p in ipairs({1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100}) do
    local value = p == 100 and latency.max or latency:percentile(p)
    parts[#parts + 1] = string.format('"%g":%.4f', p, value / 1000)
  end
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"seconds":%.6f,"bytes":%d,"errors":%d,"latency":{%s}}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, table.concat(parts, ",")))
end
