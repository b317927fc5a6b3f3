-- Users, devices and traits as they are now, one row each.
-- The tables themselves keep older versions of a row until they are merged.
CREATE VIEW users_current AS
SELECT user_id, email, name, updated_at FROM users_v1 FINAL;

CREATE VIEW user_devices_current AS
SELECT user_id, device_id, linked_at FROM user_devices FINAL;

CREATE VIEW user_traits_current AS
SELECT user_id, trait_key, trait_value, updated_at FROM user_traits FINAL;
