-- Rows sorted by what happened, then when: for questions about some kinds of events.
-- An ORDER BY can't be changed later: choose before there are rows.
CREATE TABLE events_v1 (
    timestamp DateTime64(3),
    event_name LowCardinality(String),
    device_id UUID,
    session_id UUID,
    properties String,
    _raw String,
    source_ip FixedString(16)
) ENGINE = MergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (event_name, toStartOfHour(timestamp), device_id, timestamp);

CREATE TABLE context_v1 (
    timestamp DateTime64(3),
    device_id UUID,
    session_id UUID,
    device_type LowCardinality(String),
    device_model String,
    operating_system LowCardinality(String),
    os_version String,
    app_version String,
    app_build String,
    timezone String,
    locale FixedString(5),
    country String,
    region String,
    city String,
    properties String,
    source_ip FixedString(16)
) ENGINE = MergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (device_type, operating_system, toStartOfHour(timestamp), device_id, timestamp);

CREATE TABLE logs_v1 (
    timestamp DateTime64(3),
    level LowCardinality(String),
    source String,
    service LowCardinality(String),
    session_id UUID,
    source_ip FixedString(16),
    pattern_id Nullable(UInt64),
    message String,
    _raw String
) ENGINE = MergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (service, level, timestamp);
