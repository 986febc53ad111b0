package carrpc.wire

import kotlinx.serialization.KSerializer
import kotlinx.serialization.Serializable
import kotlinx.serialization.SerializationException
import kotlinx.serialization.descriptors.SerialDescriptor
import kotlinx.serialization.descriptors.buildClassSerialDescriptor
import kotlinx.serialization.encoding.Decoder
import kotlinx.serialization.encoding.Encoder
import kotlinx.serialization.json.JsonDecoder

/** One of two types that JSON tells apart by itself, such as a string and an array. */
@Serializable(with = EitherSerializer::class)
sealed interface Either<out A, out B> {
    data class First<out A>(val value: A) : Either<A, Nothing>

    data class Second<out B>(val value: B) : Either<Nothing, B>
}

class EitherSerializer<A, B>(
    private val first: KSerializer<A>,
    private val second: KSerializer<B>,
) : KSerializer<Either<A, B>> {
    override val descriptor: SerialDescriptor = buildClassSerialDescriptor("Either")

    override fun deserialize(decoder: Decoder): Either<A, B> {
        val input = decoder as? JsonDecoder ?: throw SerializationException("a choice needs JSON")
        val raw = input.decodeJsonElement()
        return try {
            Either.First(input.json.decodeFromJsonElement(first, raw))
        } catch (_: IllegalArgumentException) {
            Either.Second(input.json.decodeFromJsonElement(second, raw))
        }
    }

    override fun serialize(encoder: Encoder, value: Either<A, B>) {
        when (value) {
            is Either.First -> encoder.encodeSerializableValue(first, value.value)
            is Either.Second -> encoder.encodeSerializableValue(second, value.value)
        }
    }
}
