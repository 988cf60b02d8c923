"""What a gateway is: the API that dialect plugins are written against, and how they are found."""
