/*
 * How long to wait, and how often to try again.
 *
 * Three may say so, and the first that does decides: the error itself (retryable, retry_after),
 * the task or step (an explicit `retry`), the policy of the error's category.  A policy gives the
 * waits and lowers the number of attempts; it never raises what the task or step allows.  Without
 * rows in retry_policy nothing but the task counts.
 */

create or replace function ordinaut._curve(
  p_n        integer,
  p_base     interval,
  p_factor   float8,
  p_cap      interval,
  p_strategy text
)
returns interval
language sql
immutable
as $fn$
  select least(p_cap, p_base * case p_strategy
    when 'fixed' then 1
    when 'linear' then p_n
    -- 2^40 s is 35 000 years: the cap has long decided.
    else least(p_factor ^ least(p_n - 1, 40), 1e9)
  end);
$fn$;

comment on function ordinaut._curve(integer, interval, float8, interval, text) is
  'The wait after the n-th failure, without jitter: min(cap, base x factor^(n-1)), base x n '
  '(linear), or base (fixed).';

create or replace function ordinaut._backoff(p_retry jsonb, p_failures integer)
returns interval
language sql
volatile
as $fn$
  select ordinaut._curve(
    p_failures,
    coalesce((p_retry ->> 'base')::interval, '1 s'),
    coalesce((p_retry ->> 'factor')::float8, 2),
    coalesce((p_retry ->> 'cap')::interval, '60 s'),
    coalesce(p_retry ->> 'strategy', 'exponential')
  ) * (1 - coalesce((p_retry ->> 'jitter')::float8, 0.1) * random());
$fn$;

comment on function ordinaut._backoff(jsonb, integer) is
  'How long to wait after the n-th failure: min(cap, base x factor^(n-1)), less up to jitter of '
  'it. Defaults: 1 s, cap 60 s, factor 2, jitter 0.1.';

create or replace function ordinaut.calculate_backoff_delay(
  p_attempt     integer,
  p_base        float8 default 1,
  p_multiplier  float8 default 2,
  p_cap         float8 default 60,
  p_strategy    text   default 'exponential',
  p_jitter_mode text   default 'none',
  p_jitter_pct  float8 default 0.25
)
returns float8
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_delay float8;
begin
  perform ordinaut._check_count('attempt', p_attempt, 1, 1000000);
  if not coalesce(p_base between 0 and 2592000 and p_cap between 0 and 2592000
    and p_multiplier between 1 and 100 and p_jitter_pct between 0 and 1, false)
  then
    perform ordinaut._refuse(
      format('base %s, cap %s, multiplier %s and jitter_pct %s make no backoff', p_base, p_cap,
        p_multiplier, p_jitter_pct),
      'base and cap are seconds up to 30 days, multiplier is 1 to 100, jitter_pct 0 to 1.');
  elsif p_strategy not in ('exponential', 'linear', 'fixed') or p_strategy is null then
    perform ordinaut._refuse(
      format('strategy %L must be exponential, linear or fixed', p_strategy));
  end if;

  v_delay := extract(epoch from ordinaut._curve(p_attempt, p_base * interval '1 s', p_multiplier,
    p_cap * interval '1 s', p_strategy));
  case coalesce(p_jitter_mode, '')
    when 'none' then null;
    when 'minus' then v_delay := v_delay * (1 - p_jitter_pct * random());
    when 'plus_minus' then v_delay := v_delay * (1 + p_jitter_pct * (2 * random() - 1));
    when 'half' then v_delay := v_delay * (0.5 + 0.5 * random());
    when 'full' then v_delay := v_delay * random();
    else
      perform ordinaut._refuse(
        format('jitter_mode %L must be none, minus, plus_minus, half or full', p_jitter_mode));
  end case;
  return v_delay;
end
$fn$;

comment on function ordinaut.calculate_backoff_delay(
  integer, float8, float8, float8, text, text, float8
) is
  'Seconds to wait after the p_attempt-th failed attempt: min(cap, base x '
  'multiplier^(attempt-1)), base x attempt (linear) or base (fixed). jitter_mode draws from '
  '[d(1-pct), d] (minus: what the engine does, with 0.1), [d(1-pct), d(1+pct)] (plus_minus), '
  '[d/2, d] (half) or [0, d] (full). Errors: invalid_parameter_value.';

create or replace function ordinaut.set_retry_policy(
  p_category text,
  p_policy   jsonb default null
)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_retry jsonb := p_policy - 'max_attempts';
  v_n integer;
begin
  if p_category not in ('defaults', 'none') and not exists (
    select from ordinaut.error_category as c where c.category = p_category
  ) or p_category is null then
    perform ordinaut._refuse(
      format('%L is no category of errors', p_category),
      'ordinaut.error_category lists them; ''defaults'' and ''none'' mean them all.');
  elsif p_category in ('defaults', 'none') and p_policy is not null then
    perform ordinaut._refuse(
      format('%L takes no policy', p_category), 'Name a category to give it a policy of its own.');
  end if;

  if p_policy is null then
    delete from ordinaut.retry_policy as r
    where p_category in ('defaults', 'none') or r.category = p_category;
    get diagnostics v_n = row_count;
    if p_category = 'defaults' then
      insert into ordinaut.retry_policy (category, max_attempts, retry, set_by, set_at)
      select c.category, c.max_attempts,
        jsonb_build_object('base', c.base, 'cap', '60 s', 'factor', 2, 'jitter', 0.25),
        ordinaut._actor(), ordinaut.now()
      from ordinaut.error_category as c;
      get diagnostics v_n = row_count;
    end if;
  else
    if jsonb_typeof(p_policy) <> 'object' then
      perform ordinaut._refuse('a retry policy must be an object',
        'For example {"max_attempts": 4, "base": "2 s"}.');
    end if;
    if coalesce(p_policy ->> 'max_attempts', '') !~ '^[0-9]{1,3}$' then
      perform ordinaut._refuse(
        format('max_attempts %s must be 1 to 100', coalesce(p_policy -> 'max_attempts', 'null')),
        'It counts all attempts, the first among them: 1 means no retry.');
    end if;
    perform ordinaut._check_count('max_attempts', (p_policy ->> 'max_attempts')::integer, 1, 100);
    perform ordinaut._check_retry(v_retry);
    insert into ordinaut.retry_policy as r (category, max_attempts, retry, set_by, set_at)
    values (p_category, (p_policy ->> 'max_attempts')::smallint, v_retry, ordinaut._actor(),
      ordinaut.now())
    on conflict on constraint retry_policy_pk do update
    set
      max_attempts = excluded.max_attempts,
      retry = excluded.retry,
      set_by = excluded.set_by,
      set_at = excluded.set_at;
    v_n := 1;
  end if;
  perform ordinaut._journal('retry_policy_set',
    p_detail => jsonb_build_object('category', p_category, 'policy', p_policy));
  return v_n;
end
$fn$;

comment on function ordinaut.set_retry_policy(text, jsonb) is
  'Say how errors of a category are tried again, where neither the error nor an explicit retry '
  'of the task or step does: {"max_attempts": 4, "base": "2 s", "cap": "60 s", "factor": 2, '
  '"jitter": 0.25, "strategy": "exponential"}; max_attempts counts the first one too, and never '
  'raises what the task allows. No policy: that category has none. Category ''defaults'' loads '
  'the policies of error_category for all, ''none'' takes all away. Returns how many policies it '
  'set or took. Errors: invalid_parameter_value.';

create or replace function ordinaut.list_retry_policies()
returns table (
  category text, max_attempts integer, retry jsonb, set_by text, set_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select r.category, r.max_attempts::integer, r.retry, r.set_by, r.set_at
  from ordinaut.retry_policy as r
  order by r.category;
$fn$;

comment on function ordinaut.list_retry_policies() is
  'The policies that are set; a category without a row has none.';

-- The one place that decides what a failure is followed by; p_failures counts this one.
create or replace function ordinaut._retry_decision(
  p_item     ordinaut.work_item,
  p_error    jsonb,
  p_failures integer
)
returns table (is_retryable boolean, max_attempts integer, after interval)
language plpgsql
volatile
as $fn$
declare
  v_retry jsonb := p_item.retry;
begin
  is_retryable := coalesce((p_error ->> 'retryable')::boolean, true);
  max_attempts := p_item.max_attempts;
  if v_retry is null and exists (select from ordinaut.retry_policy) then
    select r.retry, least(r.max_attempts, p_item.max_attempts) into v_retry, max_attempts
    from ordinaut._class_of(p_error) as c
    join ordinaut.retry_policy as r on r.category = c.category;
    if not found then
      max_attempts := p_item.max_attempts;
    end if;
  end if;
  after := coalesce(ordinaut._retry_after(p_error), ordinaut._backoff(v_retry, p_failures));
  return next;
end
$fn$;

comment on function ordinaut._retry_decision(ordinaut.work_item, jsonb, integer) is
  'Whether an error may be tried again, in how many attempts at most, and after how long.';

create or replace function ordinaut.advise_retry(
  p_attempt  integer,
  p_type     text default null,
  p_message  text default null,
  p_sqlstate text default null
)
returns table (
  category     text,
  code         text,
  attempt      integer,
  should_retry boolean,
  delay        float8,
  next_attempt integer
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_class record;
  v_policy record;
begin
  perform ordinaut._check_count('attempt', p_attempt, 1, 1000000);
  select c.* into v_class from ordinaut.classify_error(p_type, p_message, p_sqlstate) as c;
  select coalesce(r.max_attempts, k.max_attempts) as max_attempts,
    coalesce(r.retry, jsonb_build_object('base', k.base, 'jitter', 0.25)) as retry
  into v_policy
  from ordinaut.error_category as k
  left join ordinaut.retry_policy as r on r.category = k.category
  where k.category = v_class.category;

  category := v_class.category;
  code := v_class.code;
  attempt := p_attempt;
  should_retry := v_class.retryable and p_attempt < v_policy.max_attempts;
  delay := case
    when should_retry then extract(epoch from ordinaut._backoff(v_policy.retry, p_attempt))
    else 0
  end;
  next_attempt := case when should_retry then p_attempt + 1 end;
  return next;
end
$fn$;

comment on function ordinaut.advise_retry(integer, text, text, text) is
  'What to do after the p_attempt-th attempt failed with an error, by the policy of its category '
  '(its default where none is set): for programs that retry on their own. delay: seconds, 0 when '
  'it should not; next_attempt: null then. Errors: invalid_parameter_value.';
