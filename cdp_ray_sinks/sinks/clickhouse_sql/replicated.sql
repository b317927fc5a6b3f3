-- UNTESTED here, for want of a cluster: replicated tables, and one over all shards for each.
-- Needs the macros cluster, shard and replica on every server. The sink inserts into the
-- replicated tables of the server it is connected to; read from the tables that end in _all.
-- Statements of other profiles need ON CLUSTER '{cluster}' behind the name of their table.
CREATE TABLE events_v1 ON CLUSTER '{cluster}' (
    timestamp DateTime64(3),
    event_name String,
    device_id UUID,
    session_id UUID,
    properties String,
    _raw String,
    source_ip FixedString(16)
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/events_v1', '{replica}')
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, device_id);

CREATE TABLE users_v1 ON CLUSTER '{cluster}' (
    user_id String,
    email String,
    name String,
    updated_at DateTime64(3)
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{shard}/{database}/users_v1', '{replica}', updated_at
)
ORDER BY user_id;

CREATE TABLE user_devices ON CLUSTER '{cluster}' (
    user_id String,
    device_id UUID,
    linked_at DateTime64(3)
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{shard}/{database}/user_devices', '{replica}', linked_at
)
ORDER BY (user_id, device_id);

CREATE TABLE user_traits ON CLUSTER '{cluster}' (
    user_id String,
    trait_key String,
    trait_value String,
    updated_at DateTime64(3)
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{shard}/{database}/user_traits', '{replica}', updated_at
)
ORDER BY (user_id, trait_key);

CREATE TABLE context_v1 ON CLUSTER '{cluster}' (
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
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/context_v1', '{replica}')
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, device_id);

CREATE TABLE logs_v1 ON CLUSTER '{cluster}' (
    timestamp DateTime64(3),
    level LowCardinality(String),
    source String,
    service String,
    session_id UUID,
    source_ip FixedString(16),
    pattern_id Nullable(UInt64),
    message String,
    _raw String
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/logs_v1', '{replica}')
PARTITION BY toYYYYMM(timestamp)
ORDER BY (timestamp, level);

CREATE TABLE events_v1_all ON CLUSTER '{cluster}' AS events_v1
ENGINE = Distributed('{cluster}', currentDatabase(), events_v1, cityHash64(device_id));

CREATE TABLE users_v1_all ON CLUSTER '{cluster}' AS users_v1
ENGINE = Distributed('{cluster}', currentDatabase(), users_v1, cityHash64(user_id));

CREATE TABLE user_devices_all ON CLUSTER '{cluster}' AS user_devices
ENGINE = Distributed('{cluster}', currentDatabase(), user_devices, cityHash64(user_id));

CREATE TABLE user_traits_all ON CLUSTER '{cluster}' AS user_traits
ENGINE = Distributed('{cluster}', currentDatabase(), user_traits, cityHash64(user_id));

CREATE TABLE context_v1_all ON CLUSTER '{cluster}' AS context_v1
ENGINE = Distributed('{cluster}', currentDatabase(), context_v1, cityHash64(device_id));

CREATE TABLE logs_v1_all ON CLUSTER '{cluster}' AS logs_v1
ENGINE = Distributed('{cluster}', currentDatabase(), logs_v1, cityHash64(session_id));
