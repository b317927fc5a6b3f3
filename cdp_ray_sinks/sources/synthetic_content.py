"""What invented events and log entries say."""

from __future__ import annotations

from typing import Final

EVENT_NAMES: Final = (
    "Page Viewed", "Product Clicked", "Product Added", "Search Typed", "Cart Viewed",
    "Video Started", "Form Sent", "Button Pressed", "App Opened", "Link Followed",
    "Checkout Begun", "Coupon Used", "Order Placed", "Order Paid", "Review Written",
    "Wishlist Changed", "Filter Set", "Tab Switched", "File Uploaded", "Message Sent",
    "Friend Invited", "Plan Changed", "Trial Begun", "Session Begun", "App Updated",
)  # fmt: skip

WORD_LISTS: Final = {
    "plan": ["free", "pro", "team", "gold"],
    "first_name": ["Ann", "Bo", "Chloe", "Dmitri", "Elif", "Farid", "Zoë", "José", "美咲"],
    "os": ["iOS", "Android", "macOS", "Windows", "Linux"],
    "device": ["phone", "tablet", "desktop"],
    "model": ["Pixel 9", "iPhone 16", "Galaxy S25", "ThinkPad X1"],
    "zone": ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"],
    "locale": ["de_DE", "en_US", "ja_JP", "fr_FR"],
    "country": ["DE", "US", "JP", "FR"],
    "city": ["Berlin", "Boston", "Tōkyō", "Saint-Étienne"],
    "verb": ["took", "was refused after", "was retried for", "failed within"],
}

TEMPLATES: Final = (
    '{"n":<number>,"page":"/item/<random:99999>","ref":"<hex>","ms":<random:999>'
    ',"plan":"<word:plan>"}',
    '{"n":<number>,"user_id":"u<device>","email":"user<device>@example.com"'
    ',"name":"<word:first_name> <device>","traits":{"plan":"<word:plan>","seats":<random:50>}}',
    '{"n":<number>,"device_type":"<word:device>","device_model":"<word:model>"'
    ',"operating_system":"<word:os>","os_version":"<random:20>.<random:9>"'
    ',"app_version":"3.<random:40>","timezone":"<word:zone>","locale":"<word:locale>"'
    ',"country":"<word:country>","city":"<word:city>"}',
    '{"n":<number>,"message":"request <hex> <word:verb> <random:5000> ms","status":<random:600>}',
)
"""Payloads of TRACK, IDENTIFY and CONTEXT events and of log entries, see KIND_*."""

LOG_SOURCES: Final = ("web-1", "web-2", "worker-1", "cron")
LOG_SERVICES: Final = ("checkout", "search", "accounts")
LOG_LEVELS: Final = (6, 6, 6, 6, 7, 7, 6, 5, 4, 3, 8, 2)
"""LogLevel of an entry, by a number drawn evenly."""
