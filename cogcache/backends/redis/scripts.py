"""What has to happen in one step inside the server. Redis 6.2 and Valkey know every command here.

All keys of one call lie in one slot. Names of slices are made from the manifest, which is in the
same slot, so that an old generation goes in the same step that puts the new one in its place.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

__all__ = ["BEGIN_TAGS", "COMMIT", "INVALIDATE", "RAISE_ORIGIN", "REFRESH", "REMOVE", "Script"]


class Script:
    """A script and the name that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# The generation that a manifest names, and letting go of its slices.
_GENERATION: Final = """
local function generation(start)
  if not start or #start < 48 then return nil end
  local cut, size = struct.unpack('<I8I4', start)
  local hex = {}
  for i = 32, 25, -1 do hex[#hex + 1] = string.format('%02x', start:byte(i)) end
  local count = 0
  if size > 0 and cut > 32 then count = math.ceil((cut - 32) / size) end
  if count > 1048576 then count = 0 end
  return table.concat(hex), count
end
local function forget(base, token, count)
  for first = 0, count - 1, 1000 do
    local names = {}
    for i = first, math.min(first + 999, count - 1) do
      names[#names + 1] = base .. ':c:' .. token .. ':' .. i
    end
    redis.call('UNLINK', unpack(names))
  end
end
"""

# Changes of one process are numbered, and none is made after one with a higher number of the same
# entry that knew of it; see late.py. KEYS[2] has the number up to which they come too late. Answers
# whether this one may be made, and 1 if those up to `past` may not from now on. (A full server says
# no to that; what may be done all the same, removing, is not to fail for it.)
_FENCE: Final = """
local function pass(number, past, life)
  local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
  local fenced = 1
  if tonumber(past) > fence then
    local done = redis.pcall('SET', KEYS[2], past, 'PX', life)
    if done['err'] then fenced = 0 end
  end
  return tonumber(number) > fence, fenced
end
"""

# KEYS: manifest, fence. ARGV: number, past, life of the fence in ms, base, manifest, life in ms or
# '', life of slices or ''. Answers 1; 0 when a slice is gone, and then nothing has changed. One
# that comes too late is done and gone again. The other answer is that of the fence.
COMMIT: Final = Script(
    _GENERATION
    + _FENCE
    + """
local base, life, slices = ARGV[4], ARGV[6], ARGV[7]
local token, count = generation(ARGV[5])
local may, fenced = pass(ARGV[1], ARGV[2], ARGV[3])
if not may then
  if generation(redis.call('GETRANGE', KEYS[1], 0, 47)) ~= token then forget(base, token, count) end
  return {1, fenced}
end
for i = 0, count - 1 do
  local name = base .. ':c:' .. token .. ':' .. i
  local there
  if slices == '' then
    redis.call('PERSIST', name)
    there = redis.call('EXISTS', name)
  else
    there = redis.call('PEXPIRE', name, slices)
  end
  if there == 0 then
    forget(base, token, count)
    return {0, fenced}
  end
end
local kind = redis.call('TYPE', KEYS[1])['ok']
local old, old_count
if kind == 'string' then old, old_count = generation(redis.call('GETRANGE', KEYS[1], 0, 47)) end
if life == '' then
  redis.call('SET', KEYS[1], ARGV[5])
else
  redis.call('SET', KEYS[1], ARGV[5], 'PX', life)
end
if old and old ~= token then forget(base, old, old_count) end
return {1, fenced}
"""
)

# KEYS: manifest, fence. ARGV: number, past, life of the fence in ms, base, token or '' for any.
# Answers 1 when it was there, and that of the fence.
REMOVE: Final = Script(
    _GENERATION
    + _FENCE
    + """
local may, fenced = pass(ARGV[1], ARGV[2], ARGV[3])
local start = redis.call('GETRANGE', KEYS[1], 0, 47)
if not may or #start == 0 then return {0, fenced} end
local token, count = generation(start)
if ARGV[5] ~= '' and token ~= ARGV[5] then return {0, fenced} end
if token then forget(ARGV[4], token, count) end
return {redis.call('UNLINK', KEYS[1]), fenced}
"""
)

# KEYS: manifest. ARGV: base, token, the last 112 bytes as they were, as they shall be, life, life
# of slices. Answers 1 when that generation was there, unchanged.
REFRESH: Final = Script(
    _GENERATION
    + """
local token, count = generation(redis.call('GETRANGE', KEYS[1], 0, 47))
if token ~= ARGV[2] or redis.call('GETRANGE', KEYS[1], -112, -1) ~= ARGV[3] then return 0 end
for i = 0, count - 1 do
  local name = ARGV[1] .. ':c:' .. token .. ':' .. i
  if ARGV[6] == '' then redis.call('PERSIST', name) else redis.call('PEXPIRE', name, ARGV[6]) end
end
redis.call('SETRANGE', KEYS[1], redis.call('STRLEN', KEYS[1]) - 112, ARGV[4])
if ARGV[5] == '' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
"""
)

# KEYS: tags. ARGV: a fresh origin, now, when this tier was made (microseconds). Answers the origin
# and its version.
BEGIN_TAGS: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then
  local at = ARGV[2]
  if redis.call('DBSIZE') == 0 then at = ARGV[3] end
  redis.call('ZADD', KEYS[1], at, ARGV[1])
end
return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
"""
)

# KEYS: tags. ARGV: a fresh origin, version wanted (microseconds), most tags, tag ... Every version
# is higher than any before it, so that a reader who knows one knows what came after it. When there
# are too many, the oldest are folded into the origin: what was captured before them is invalid,
# whatever its tags. Answers the version.
INVALIDATE: Final = Script(
    """
local key = KEYS[1]
local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
local version = tonumber(ARGV[2])
if #last == 0 then
  redis.call('ZADD', key, string.format('%.0f', version), ARGV[1])
  version = version + 1
elseif tonumber(last[2]) >= version then
  version = tonumber(last[2]) + 1
end
local text = string.format('%.0f', version)
for i = 4, #ARGV do redis.call('ZADD', key, text, ARGV[i]) end
local over = redis.call('ZCARD', key) - 1 - tonumber(ARGV[3])
if over > 0 then
  local origin = redis.call('ZRANGE', key, 0, 0)[1]
  local floor = redis.call('ZRANGE', key, over, over, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', floor)
  redis.call('ZADD', key, floor, origin)
end
return text
"""
)

# KEYS: tags. ARGV: a fresh origin, version. Whatever was captured before it is invalid.
RAISE_ORIGIN: Final = Script(
    """
local origin = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #origin == 0 then origin = {ARGV[1], 0} end
if tonumber(origin[2]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[2], origin[1])
return 1
"""
)
