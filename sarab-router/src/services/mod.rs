//! What clients ask of a router: addresses (DHCP), routes (router advertisements) and names (DNS).
