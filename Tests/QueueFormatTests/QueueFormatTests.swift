import Testing

@Suite struct QueueFormatTests {}
