"""Everything on one machine: Azurite in place of a storage account."""
