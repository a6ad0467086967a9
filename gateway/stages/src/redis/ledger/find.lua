-- Tells records. KEYS: the records. ARGV: now or ''. Returns of each its fields; nothing of those that expired.

local now, found = clock(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  found[i] = fields_at(key, now) or false
end
return found
