import Testing

@Suite struct CDBTests {}
