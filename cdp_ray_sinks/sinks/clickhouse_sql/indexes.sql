-- Skip indexes for finding one device, session, address or word.
-- New parts have them; for those there already: ALTER TABLE … MATERIALIZE INDEX ….
ALTER TABLE events_v1
    ADD INDEX by_device device_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX by_name event_name TYPE set(100) GRANULARITY 4;

ALTER TABLE context_v1
    ADD INDEX by_device device_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE logs_v1
    ADD INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    ADD INDEX by_word message TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 1;

ALTER TABLE users_v1
    ADD INDEX by_email email TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE user_devices
    ADD INDEX by_device device_id TYPE bloom_filter(0.01) GRANULARITY 1;
