"""The nodes: what they have, whether they answer, and the one HTTP client that speaks to them."""
