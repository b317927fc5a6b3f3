CREATE TABLE events_v1 (
    timestamp DateTime64(3),
    event_name String,
    device_id UUID,
    session_id UUID,
    properties String,
    _raw String,
    source_ip FixedString(16)
) ENGINE = MergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, device_id);

CREATE TABLE users_v1 (
    user_id String,
    email String,
    name String,
    updated_at DateTime64(3)
) ENGINE = ReplacingMergeTree(updated_at)
ORDER BY user_id;

CREATE TABLE user_devices (
    user_id String,
    device_id UUID,
    linked_at DateTime64(3)
) ENGINE = ReplacingMergeTree(linked_at)
ORDER BY (user_id, device_id);

CREATE TABLE user_traits (
    user_id String,
    trait_key String,
    trait_value String,
    updated_at DateTime64(3)
) ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (user_id, trait_key);

CREATE TABLE context_v1 (
    timestamp DateTime64(3),
    device_id UUID,
    session_id UUID,
    device_type String,
    device_model String,
    operating_system String,
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
ORDER BY (timestamp, device_id);

CREATE TABLE logs_v1 (
    timestamp DateTime64(3),
    level LowCardinality(String),
    source String,
    service String,
    session_id UUID,
    source_ip FixedString(16),
    pattern_id Nullable(UInt64),
    message String,
    _raw String
) ENGINE = MergeTree()
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, level);
