"""Who may ask: users, their API keys, and the callers that these turn into."""
