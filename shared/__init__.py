"""The protocol between the three parties. Depends on none of them."""
