-- Inserts that are repeated land once.
-- A table of an engine without replicas forgets the tokens of inserts unless it has this window,
-- counted in inserts: it must be longer than all inserts that one retry may wait for.
-- Tables that the sink makes itself (create_tables = true) have it already.
ALTER TABLE events_v1 MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE users_v1 MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE user_devices MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE user_traits MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE context_v1 MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE logs_v1 MODIFY SETTING non_replicated_deduplication_window = 10000;
