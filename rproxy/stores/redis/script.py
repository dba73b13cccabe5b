"""What a Redis does in one exchange: a script in Lua, what it is given, and what it answers.

Redis runs a script as one piece, by its own clock. The script gets a whole message as a few texts and answers with one,
because a line costs less than an argument, on either side, and there is no limit to how many there are.

All keys have one tag, ``{prefix}``, so that a cluster keeps them together:

=============  =================================================================================================
Key            What is in it
=============  =================================================================================================
``state``      a hash: the form of all that, the life, the number of the last change, and up to where ends are
               forgotten
``records``    a hash: of each record's key, its version, its kind, for how long its end is remembered, and the
               record itself
``changes``    a sorted set: of each record's key, the number of its last change
``leases``     a sorted set: of the keys of records with a lease, when it runs out
``ends``       a sorted set: of the keys of ends, when they are forgotten
``ended``      a sorted set: of the same keys, the number of their last change
``processes``  a sorted set: of those that share it, until when they count
=============  =================================================================================================

Times are microseconds, by the clock of the Redis. Numbers stay below 2**53, as Lua and scores are floats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha1

from attrs import field, frozen

from rproxy.registry.records import NOBODY, Record, RecordError, RecordKey, decode, encode
from rproxy.stores import ENDS, LEASED_ENDS, PRESENCE, Message, News, Position

#: The form of what is kept. Another one has another number.
FORMAT = "1"
#: What the script's errors begin with where the keys hold something else than it needs.
FOREIGN = "FOREIGN"
_KEYS = ("state", "records", "changes", "leases", "ends", "ended", "processes")


@frozen
class Script:
    """A text in Lua, and the name that a Redis knows it by once it has seen it."""

    text: str
    name: str = field(init=False)

    @name.default
    def _digest(self) -> str:
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: Changes nothing; answers with the form, and with all that is in the records, in lines.
LOOK = Script("""
local lines = redis.call('HVALS', KEYS[2])
table.insert(lines, 1, redis.call('HGET', KEYS[1], 'format') or '')
return table.concat(lines, '\\n')
""")

#: See :func:`arguments` and :func:`news`. What it has to find is looked at before anything is changed: Redis undoes
#: nothing when a script fails.
EXCHANGE = Script("""
local state, records, changes, leases, ends, ended, processes = unpack(KEYS)
local format, life, channel, most_ends, process, leaves, presence, since_life, since, told, renewed = unpack(ARGV)
local call = redis.call

-- As Lua writes it, a number has fourteen digits. As an argument of a call it has all that it needs.
local function whole(number)
  return string.format('%.0f', number)
end

local had = call('HMGET', state, 'format', 'life', 'sequence', 'forgotten')
local count = call('HLEN', records)
if had[1] and had[1] ~= format then
  return redis.error_reply('FOREIGN its data are of format ' .. had[1])
end
if count ~= call('ZCARD', changes) or count < call('ZCARD', leases) + call('ZCARD', ends)
    or call('ZCARD', ends) ~= call('ZCARD', ended) or (count > 0 and not had[1]) then
  return redis.error_reply('FOREIGN some of its data are missing')
end
call('ZCARD', processes)
life = had[2] or life
local before, sequence, forgotten = tonumber(had[3]), tonumber(had[3] or 0), tonumber(had[4] or 0)
local forgotten_before = forgotten

local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function keep(key, version, kind, lasts, memory, record)
  sequence = sequence + 1
  call('HSET', records, key, table.concat({version, kind, memory, record}, '\\t'))
  call('ZADD', changes, sequence, key)
  call('ZREM', leases, key)
  call('ZREM', ends, key)
  call('ZREM', ended, key)
  if kind == 'leased' then
    call('ZADD', leases, now + lasts, key)
  elseif kind == 'ended' then
    call('ZADD', ends, now + memory, key)
    call('ZADD', ended, sequence, key)
  end
end

local function forget(key, number)
  call('HDEL', records, key)
  call('ZREM', changes, key)
  call('ZREM', ends, key)
  call('ZREM', ended, key)
  forgotten = math.max(forgotten, number)
end

local late = {}
for _, due in ipairs({leases, ends}) do
  for _, key in ipairs(call('ZRANGEBYSCORE', due, '-inf', now)) do
    late[#late + 1] = {key = key, number = tonumber(call('ZSCORE', changes, key)), is_end = due == ends}
  end
end
table.sort(late, function(one, other) return one.number < other.number end)
for _, each in ipairs(late) do
  local key = each.key
  if each.is_end then
    forget(key, each.number)
  else
    local version, memory = string.match(call('HGET', records, key), '^(%d+)\\t%a+\\t(%d+)')
    keep(key, version, 'ended', nil, memory, '{' .. key .. ',"version":' .. version .. ',"down":0.0,"terms":null}')
  end
end

for key, version, kind, lasts, memory, record in
    string.gmatch(told, '([^\\t]*)\\t(%d+)\\t(%a+)\\t(%d*)\\t(%d+)\\t([^\\n]*)\\n') do
  local old = call('HGET', records, key)
  local old_version, old_kind = string.match(old or '', '^(%d+)\\t(%a+)')
  local newer = tonumber(version) - tonumber(old_version or 0)
  if not old or newer > 0 or (newer == 0 and old_kind ~= 'ended') then
    keep(key, version, kind, lasts, memory, record)
  end
end

local excess = call('ZCARD', ended) - most_ends
if excess > 0 then
  local oldest = call('ZRANGE', ended, 0, excess - 1, 'WITHSCORES')
  for index = 1, #oldest, 2 do
    forget(oldest[index], tonumber(oldest[index + 1]))
  end
end

local missing, place = {}, 0
for key, left in string.gmatch(renewed, '([^\\t]*)\\t(-?%d+)\\n') do
  -- Nothing changes also where it would last until the same moment anyway.
  if call('ZADD', leases, 'XX', 'CH', now + left, key) == 0 and not call('ZSCORE', leases, key) then
    missing[#missing + 1] = place
  end
  place = place + 1
end

if leaves == '1' then
  call('ZREM', processes, process)
else
  call('ZADD', processes, now + presence, process)
end
call('ZREMRANGEBYSCORE', processes, '-inf', now)

if sequence ~= before or forgotten ~= forgotten_before then
  call('HSET', state, 'format', format, 'life', life, 'sequence', sequence, 'forgotten', forgotten)
end
if sequence ~= before then
  call('PUBLISH', channel, process)
end

local known = since_life == life and tonumber(since)
local complete = not known or known < forgotten or known > sequence
local changed = call('ZRANGEBYSCORE', changes, complete and '-inf' or '(' .. since, '+inf')
local first = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
local lines = {table.concat({
  life, whole(sequence), complete and '1' or '0', call('ZCARD', processes),
  first[2] and whole(first[2] - now) or '', table.concat(missing, ','),
}, '\\t')}
-- No function of Lua takes more than some thousand arguments.
for start = 1, #changed, 1000 do
  for _, value in ipairs(call('HMGET', records, unpack(changed, start, math.min(start + 999, #changed)))) do
    lines[#lines + 1] = value
  end
end
return table.concat(lines, '\\n')
""")


def keys(prefix: str) -> list[str]:
    """Return the names of all keys, in the order in which both scripts take them."""
    return [f"{{{prefix}}}:{key}" for key in _KEYS]


def channel(prefix: str) -> str:
    """Return the name of the channel that says who changed something."""
    return f"{{{prefix}}}:changed"


def arguments(message: Message, prefix: str, life: str, most_ends: int) -> list[str]:
    """Return what :data:`EXCHANGE` takes beside the keys.

    :param life: the life that begins where there was none.
    :param most_ends: how many ends are remembered at most.
    """
    since = message.since
    return [
        FORMAT,
        life,
        channel(prefix),
        str(most_ends),
        message.process,
        "1" if message.leaves else "0",
        _microseconds(PRESENCE),
        "" if since is None else since.life,
        "" if since is None else str(since.sequence),
        "".join(map(_told, message.records)),
        "".join(f"{_key(key)}\t{_microseconds(left)}\n" for key, left in message.renewed.items()),
    ]


def news(answer: bytes, renewed: Iterable[RecordKey]) -> News:
    """Read the answer of :data:`EXCHANGE`.

    :param renewed: the keys that were renewed, in the order in which they were given.
    :raises RecordError: something in it is no record.
    """
    head, *lines = answer.decode("ascii", "replace").split("\n")
    life, sequence, complete, processes, wait, missing = head.split("\t")
    places = [*map(int, missing.split(","))] if missing else []
    renewed = list(renewed) if places else ()
    return News(
        Position(life, int(sequence)),
        [*map(_record, lines)],
        complete == "1",
        [renewed[place] for place in places],
        int(processes),
        int(wait) / 1e6 if wait else None,
    )


def looked(answer: bytes) -> tuple[str, Sequence[Record]]:
    """Read the answer of :data:`LOOK`: the form, empty where there is none, and all records.

    :raises RecordError: something in it is no record.
    """
    form, *lines = answer.decode("ascii", "replace").split("\n")
    # What is of another form has other records.
    return form, [*map(_record, lines)] if form in {"", FORMAT} else []


def _told(record: Record) -> str:
    kind, lasts = "stands", ""
    if record.registration is None:
        kind = "ended"
    elif record.lease is not None:
        kind, lasts = "leased", _microseconds(record.lease)
    memory = _microseconds(ENDS if record.holder == NOBODY else LEASED_ENDS)
    return f"{_key(record.key)}\t{record.version}\t{kind}\t{lasts}\t{memory}\t{encode(record)}\n"


def _key(key: RecordKey) -> str:
    """As it stands in the record, so that the script can make the record's end from it. Neither has tabs nor breaks."""
    policy, server_id, holder = map(_quoted, key)
    return f'"policy":{policy},"id":{server_id},"holder":{holder}'


#: What ``json.dumps`` does with a text, without looking for anything else first.
_quoted = json.encoder.encode_basestring_ascii


def _record(line: str) -> Record:
    parts = line.split("\t")
    if len(parts) != 4:
        raise RecordError("a value that isn't made of four parts")
    return decode(parts[3])


def _microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))
