-- Of the requests in the sums those for which a node was asked to answer with a model: limits count them, and no lists.
-- Of hours that are there already it is not known which they are, so all count that went to a node.
ALTER TABLE usage_hours ADD COLUMN asked bigint NOT NULL DEFAULT 0;
UPDATE usage_hours SET asked = requests WHERE node <> '';
