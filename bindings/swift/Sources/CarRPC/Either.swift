/// One of two types that JSON tells apart by itself, such as a number and a string.
public enum Either<First, Second>: Codable, Sendable, Hashable
where
    First: Codable & Sendable & Hashable,
    Second: Codable & Sendable & Hashable
{
    case first(First)
    case second(Second)

    public init(from decoder: Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let value = try? container.decode(First.self) {
            self = .first(value)
        } else {
            self = .second(try container.decode(Second.self))
        }
    }

    public func encode(to encoder: Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .first(let value): try container.encode(value)
        case .second(let value): try container.encode(value)
        }
    }
}
