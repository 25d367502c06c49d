"""Where the feed is pushed to: webhooks, MQTT, NATS JetStream, files per day."""
