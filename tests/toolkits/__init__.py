"""The networks of other toolkits, written again from their equations with their own key names."""
