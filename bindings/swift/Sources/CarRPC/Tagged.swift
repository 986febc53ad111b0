/// The member that tells the types of a union apart.
private enum TagKey: String, CodingKey {
    case type
}

extension Decoder {
    /// The tag of the object that is decoded.
    func tag() throws -> String {
        try container(keyedBy: TagKey.self).decode(String.self, forKey: .type)
    }
}

extension Encoder {
    /// Encodes a member of a union: its own members, and its tag.
    func encode(_ value: some Encodable, tag: String) throws {
        var tagged = container(keyedBy: TagKey.self)
        try tagged.encode(tag, forKey: .type)
        try value.encode(to: self)
    }
}
