-- Sums of one user or key are found without those of all others: limits are counted from them, and people look at theirs.
CREATE INDEX usage_hours_user_id ON usage_hours (user_id, hour);
CREATE INDEX usage_hours_key_id ON usage_hours (key_id, hour);

-- Users have few keys, and keys few models: a report by all of these has far fewer lines than there could be.
CREATE STATISTICS usage_hours_lines (ndistinct) ON username, key_id, gateway, model, node FROM usage_hours;
