/*
 * What kind of error is it, and is it worth another try?
 *
 * Workers classify exceptions where they are raised: there the class and all its bases are known
 * (ordinaut/tools/errors.py).  Here is the same for text: errors that psql and other clients
 * report, and those of history.  The tables are the same in both places, and a test compares them.
 *
 * Internal errors are retryable: most exceptions that nobody foresaw are among them, and the
 * default policy of their category tries them again once.
 */

create or replace view ordinaut.error_category (
  category, digit, severity, is_recoverable, is_retryable, max_attempts, base
) as
values
  ('network', '1', 'medium', true, true, 4, '2 s'),
  ('validation', '2', 'high', false, false, 1, '0 s'),
  ('resource', '3', 'high', true, true, 4, '5 s'),
  ('external_service', '4', 'medium', true, true, 6, '1 s'),
  ('internal', '5', 'critical', true, true, 2, '5 s'),
  ('timeout', '6', 'medium', true, true, 3, '10 s'),
  ('configuration', '7', 'high', false, false, 1, '0 s'),
  ('permission', '8', 'high', false, false, 1, '0 s');

comment on view ordinaut.error_category is
  'The categories of errors: the digit after the E of their codes, how bad one is, whether what '
  'it hit can be recovered, whether trying again can help, and the policy that '
  'set_retry_policy(''defaults'') loads: attempts in all, and the first wait.';

-- Of a SQLSTATE, the longest beginning decides; of messages, the first line that matches.
create or replace view ordinaut.error_class (kind, rank, pattern, code) as
values
  ('sqlstate', 0, '08', 'E5001'),
  ('sqlstate', 0, '0A', 'E2001'),
  ('sqlstate', 0, '22', 'E2002'),
  ('sqlstate', 0, '23', 'E2002'),
  ('sqlstate', 0, '25006', 'E5001'),  -- read-only: a standby
  ('sqlstate', 0, '25P03', 'E6001'),
  ('sqlstate', 0, '28', 'E8002'),
  ('sqlstate', 0, '3D', 'E7001'),
  ('sqlstate', 0, '40', 'E5003'),
  ('sqlstate', 0, '42', 'E2001'),
  ('sqlstate', 0, '42501', 'E8001'),
  ('sqlstate', 0, '53', 'E3004'),
  ('sqlstate', 0, '53100', 'E3002'),
  ('sqlstate', 0, '53200', 'E3001'),
  ('sqlstate', 0, '54', 'E2002'),
  ('sqlstate', 0, '55P03', 'E5003'),
  ('sqlstate', 0, '57014', 'E6001'),
  ('sqlstate', 0, '57P', 'E5001'),
  ('sqlstate', 0, 'OR001', 'E5003'),
  ('type', 0, 'ConnectionError', 'E1001'),
  ('type', 0, 'ConnectionRefusedError', 'E1001'),
  ('type', 0, 'ConnectionResetError', 'E1001'),
  ('type', 0, 'ConnectionAbortedError', 'E1001'),
  ('type', 0, 'BrokenPipeError', 'E1001'),
  ('type', 0, 'IncompleteReadError', 'E1001'),
  ('type', 0, 'RemoteDisconnected', 'E1001'),
  ('type', 0, 'IncompleteRead', 'E1001'),
  ('type', 0, 'ServerDisconnectedError', 'E1001'),
  ('type', 0, 'ClientConnectionError', 'E1001'),
  ('type', 0, 'NetworkError', 'E1001'),
  ('type', 0, 'ConnectError', 'E1001'),
  ('type', 0, 'ReadError', 'E1001'),
  ('type', 0, 'WriteError', 'E1001'),
  ('type', 0, 'CloseError', 'E1001'),
  ('type', 0, 'RemoteProtocolError', 'E1001'),
  ('type', 0, 'ProxyError', 'E1001'),
  ('type', 0, 'SSLError', 'E1001'),
  ('type', 0, 'ChunkedEncodingError', 'E1001'),
  ('type', 0, 'NewConnectionError', 'E1001'),
  ('type', 0, 'ProtocolError', 'E1001'),
  ('type', 0, 'URLError', 'E1001'),
  ('type', 0, 'gaierror', 'E1001'),
  ('type', 0, 'herror', 'E1001'),
  ('type', 0, 'NameResolutionError', 'E1003'),
  ('type', 0, 'ConnectTimeout', 'E1002'),
  ('type', 0, 'ReadTimeout', 'E1002'),
  ('type', 0, 'WriteTimeout', 'E1002'),
  ('type', 0, 'Timeout', 'E1002'),
  ('type', 0, 'TimeoutException', 'E1002'),
  ('type', 0, 'ConnectTimeoutError', 'E1002'),
  ('type', 0, 'ReadTimeoutError', 'E1002'),
  ('type', 0, 'PoolTimeout', 'E3004'),
  ('type', 0, 'TooManyRedirects', 'E4003'),
  ('type', 0, 'HTTPStatusError', 'E4004'),
  ('type', 0, 'HTTPError', 'E4004'),
  ('type', 0, 'ToolFailed', 'E4004'),
  ('type', 0, 'Retry', 'E4004'),
  ('type', 0, 'Permanent', 'E4004'),
  ('type', 0, 'TimeoutError', 'E6001'),
  ('type', 0, 'TimeoutExpired', 'E6001'),
  ('type', 0, 'ValueError', 'E2002'),
  ('type', 0, 'UnicodeError', 'E2002'),
  ('type', 0, 'UnicodeDecodeError', 'E2002'),
  ('type', 0, 'UnicodeEncodeError', 'E2002'),
  ('type', 0, 'UnicodeTranslateError', 'E2002'),
  ('type', 0, 'JSONDecodeError', 'E2002'),
  ('type', 0, 'InvalidURL', 'E2002'),
  ('type', 0, 'NotStorable', 'E2002'),
  ('type', 0, 'UnstorableResult', 'E2002'),
  ('type', 0, 'ValidationError', 'E2001'),
  ('type', 0, 'MemoryError', 'E3001'),
  ('type', 0, 'PermissionError', 'E8001'),
  ('type', 0, 'OperationalError', 'E5001'),
  ('type', 0, 'InterfaceError', 'E5001'),
  ('message', 1, '\mrate.?limit|too many requests|\m429\M', 'E4002'),
  ('message', 2, 'api.?key', 'E4001'),
  ('message', 3, 'queue.{0,20}time(d )?.?out', 'E6002'),
  ('message', 4, 'connect(ion)?.{0,20}time(d )?.?out', 'E1002'),
  ('message', 5, 'gateway time.?out|service unavailable|bad gateway|\m50[234]\M', 'E4003'),
  ('message', 6, 'time(d )?.?out|deadline exceeded', 'E6001'),
  ('message', 7, 'no route to host|unreachable|name or service not known', 'E1003'),
  ('message', 8, 'connection (was )?(refused|reset|aborted|closed|failed|error|lost)', 'E1001'),
  ('message', 9, 'broken pipe|could not connect|cannot connect|failed to connect', 'E1001'),
  ('message', 10, 'unauthori[sz]ed|authentication (failed|required)|\m401\M', 'E8002'),
  ('message', 11, 'permission denied|forbidden|access denied|not permitted|\m403\M', 'E8001'),
  ('message', 12, 'out of memory|cannot allocate memory', 'E3001'),
  ('message', 13, 'no space left|disk (is )?full|quota exceeded', 'E3002'),
  ('message', 14, 'too many (clients|connections|open files)|queue (is )?full', 'E3004'),
  ('message', 15, 'not configured|missing (configuration|setting|environment)', 'E7001'),
  ('message', 16, '(invalid|bad|wrong) configuration', 'E7002'),
  ('message', 17, '\mmissing|\mrequired', 'E2003'),
  ('message', 18, 'malformed|(invalid|not valid).{0,20}(json|xml|structure|schema)', 'E2001'),
  ('message', 19, '\minvalid|not a valid|out of range', 'E2002');

comment on view ordinaut.error_class is
  'Which SQLSTATEs (by their beginning), exceptions (by name) and messages (by regular '
  'expression, in order of rank, whatever the case) have which code.';

create or replace function ordinaut._error_code(p_type text, p_message text, p_sqlstate text)
returns text
language sql
stable
as $fn$
  select coalesce(
    (
      select c.code
      from ordinaut.error_class as c
      where c.kind = 'sqlstate' and starts_with(p_sqlstate, c.pattern)
      order by length(c.pattern) desc
      limit 1
    ),
    substring(p_type from '^E[1-8][0-9]{3}$'),
    (
      select c.code
      from ordinaut.error_class as c
      where c.kind = 'type' and c.pattern = regexp_replace(p_type, $re$^.*\.$re$, '')
    ),
    (
      select c.code
      from ordinaut.error_class as c
      where c.kind = 'message' and left(p_message, 4000) ~* c.pattern
      order by c.rank
      limit 1
    ),
    'E5002');
$fn$;

comment on function ordinaut._error_code(text, text, text) is
  'The code of an error: by its SQLSTATE, else its type, else its message; E5002 if none tells.';

create or replace function ordinaut.classify_error(
  p_type     text default null,
  p_message  text default null,
  p_sqlstate text default null
)
returns table (category text, severity text, code text, recoverable boolean, retryable boolean)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select k.category, k.severity, c.code, k.is_recoverable, k.is_retryable
  from (select ordinaut._error_code(p_type, p_message, p_sqlstate)) as c (code)
  join ordinaut.error_category as k on k.digit = substr(c.code, 2, 1);
$fn$;

comment on function ordinaut.classify_error(text, text, text) is
  'The class of an error: of an exception''s name (with or without its module), of a code of our '
  'own, of what it says, of a SQLSTATE; the SQLSTATE rules over the name, the name over the '
  'text. What nothing tells is internal, E5002.';

-- Stored errors bring their class along; those reported from psql may not.
create or replace function ordinaut._class_of(p_error jsonb)
returns table (category text, severity text, code text, recoverable boolean, retryable boolean)
language sql
stable
as $fn$
  select k.category, k.severity, e.code, k.is_recoverable,
    coalesce((p_error ->> 'retryable')::boolean, k.is_retryable)
  from (
    select coalesce(
      substring(p_error ->> 'code' from '^E[1-8][0-9]{3}$'),
      (
        select 'E' || c.digit || '000'
        from ordinaut.error_category as c
        where c.category = p_error ->> 'category'
      ),
      ordinaut._error_code(p_error ->> 'type', p_error ->> 'message', p_error ->> 'sqlstate'))
  ) as e (code)
  join ordinaut.error_category as k
    on k.category = p_error ->> 'category'
    or k.digit = substr(e.code, 2, 1) and not exists (
      select from ordinaut.error_category as c where c.category = p_error ->> 'category');
$fn$;

comment on function ordinaut._class_of(jsonb) is
  'The class of an error as it was reported: what it says itself, else what its text tells.';
