import Testing

@Suite struct LspawnTests {}
