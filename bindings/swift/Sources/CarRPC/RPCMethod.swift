/// A request by its name, with the types that go with it.
public struct RPCMethod<Params, Result>: Sendable
where
    Params: Codable & Sendable,
    Result: Codable & Sendable
{
    public let name: String

    init(_ name: String) {
        self.name = name
    }
}

/// A notification by its name, with the type that goes with it.
public struct RPCNotification<Params>: Sendable where Params: Codable & Sendable {
    public let name: String

    init(_ name: String) {
        self.name = name
    }
}
