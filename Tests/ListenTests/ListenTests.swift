import Testing

@Suite struct ListenTests {}
