"""One numbered stream of events without gaps. The store's outbox is the feed; here are its words and its bell."""
