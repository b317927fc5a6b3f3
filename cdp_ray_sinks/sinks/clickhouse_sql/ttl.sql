-- Events and contexts are deleted five years after they happened, log entries after two.
-- The time is the client's: what claims to be of 1970 goes at the next merge. Years after 2100
-- count as 2100, because DateTime ends in 2106 and would begin anew.
ALTER TABLE events_v1
    MODIFY TTL toDateTime(least(timestamp, toDateTime64('2100-01-01 00:00:00', 3)))
        + INTERVAL 5 YEAR;

ALTER TABLE context_v1
    MODIFY TTL toDateTime(least(timestamp, toDateTime64('2100-01-01 00:00:00', 3)))
        + INTERVAL 5 YEAR;

ALTER TABLE logs_v1
    MODIFY TTL toDateTime(least(timestamp, toDateTime64('2100-01-01 00:00:00', 3)))
        + INTERVAL 2 YEAR;
