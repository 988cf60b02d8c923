-- When the limits charged a request, and sums that can be put right.

-- By the clock of whoever counts, which need not be that of the process that has made the id; null: nothing was
-- reserved. The sums have a request in the hour in which it was charged, else in that of its arrival.
ALTER TABLE usage ADD COLUMN charged_at timestamptz;

-- 0: what the rows come to. From 1: what is added to that, or taken from it, since it is not what was used.
ALTER TABLE usage_hours ADD COLUMN correction integer NOT NULL DEFAULT 0 CHECK (correction >= 0);
ALTER TABLE usage_hours DROP CONSTRAINT usage_hours_pkey,
    ADD PRIMARY KEY (hour, user_id, username, key_id, gateway, model, node, correction);
