"""PostgreSQL and Redis: the only modules that speak to them."""
