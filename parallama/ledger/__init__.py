"""The accounts: one usage row for every exchange, and the reports made of them."""
