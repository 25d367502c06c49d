"""What meters counted, as the feed told it, put together into local days."""
