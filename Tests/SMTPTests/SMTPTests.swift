import Bytes

/// All ways a text can be cut into at most three pieces, and the text byte by byte.
func cuts(_ text: Bytes) -> [[ArraySlice<UInt8>]] {
  var all: [[ArraySlice<UInt8>]] = [[text[...]], text.indices.map { text[$0...$0] }]
  for first in 0...text.count {
    for second in first...text.count { all.append([text[..<first], text[first..<second], text[second...]]) }
  }
  return all
}

/// Texts of `length` bytes over a small alphabet of the bytes that matter, in an order that does not change.
func samples(_ count: Int, length: Int, over alphabet: Bytes = Bytes("\r\n.a\r\n")) -> [Bytes] {
  var state: UInt64 = 0x9E37_79B9_7F4A_7C15
  return (0..<count).map { _ in
    (0..<length).map { _ in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return alphabet[Int(state >> 33) % alphabet.count]
    }
  }
}
