import Testing

@Suite struct RemoteTests {}
