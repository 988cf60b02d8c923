-- name: entries(actor, action, username, target, since, until, before, limit)
-- Newest first; a null: any. The action is a whole one, or what stands before its dot.
SELECT id, at, actor, actor_id, via, request_id, address, action, target, name, username, before, after
FROM audit
WHERE ($1::text IS NULL OR lower(actor) = lower($1))
  AND ($2::text IS NULL OR action = $2 OR split_part(action, '.', 1) = $2)
  AND ($3::text IS NULL OR lower(username) = lower($3))
  AND ($4::text IS NULL OR target = $4)
  AND ($5::timestamptz IS NULL OR at >= $5)
  AND ($6::timestamptz IS NULL OR at < $6)
  AND ($7::bigint IS NULL OR id < $7)
ORDER BY id DESC
LIMIT $8::bigint;
