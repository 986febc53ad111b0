package carrpc.wire

import kotlin.reflect.KClass
import kotlin.reflect.cast
import kotlinx.serialization.KSerializer
import kotlinx.serialization.SerializationException
import kotlinx.serialization.descriptors.SerialDescriptor
import kotlinx.serialization.descriptors.buildClassSerialDescriptor
import kotlinx.serialization.encoding.Decoder
import kotlinx.serialization.encoding.Encoder
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonDecoder
import kotlinx.serialization.json.JsonEncoder
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.serializer

private const val TAG = "type"

/** A member of a union that this version does not know, as it came. */
interface UnknownMember {
    val type: String
    val raw: JsonObject
}

/** A known member of a union: its tag and its class. */
class Member<M : Any>(
    val tag: String,
    private val type: KClass<M>,
    private val serializer: KSerializer<M>,
) {
    fun holds(value: Any): Boolean = type.isInstance(value)

    fun decode(json: Json, raw: JsonObject): M =
        json.decodeFromJsonElement(serializer, JsonObject(raw - TAG))

    fun encode(json: Json, value: Any): JsonObject {
        val members = json.encodeToJsonElement(serializer, type.cast(value)).jsonObject
        return JsonObject(mapOf(TAG to JsonPrimitive(tag)) + members)
    }
}

inline fun <reified M : Any> member(tag: String): Member<M> =
    Member(tag, M::class, serializer<M>())

/** Serializes a union by the tag of its members, and keeps those that it does not know. */
abstract class UnionSerializer<T : Any>(
    name: String,
    private val unknown: (type: String, raw: JsonObject) -> T,
    members: () -> List<Member<out T>>,
) : KSerializer<T> {
    // Lazy, because a member may hold the union itself.
    private val members by lazy(members)

    override val descriptor: SerialDescriptor = buildClassSerialDescriptor(name)

    override fun deserialize(decoder: Decoder): T {
        val input = decoder as? JsonDecoder ?: throw SerializationException("a union needs JSON")
        val raw = input.decodeJsonElement().jsonObject
        val type = raw[TAG]?.jsonPrimitive?.content ?: throw SerializationException("no `$TAG`")
        val member = members.find { it.tag == type } ?: return unknown(type, raw)
        return member.decode(input.json, raw)
    }

    override fun serialize(encoder: Encoder, value: T) {
        val output = encoder as? JsonEncoder ?: throw SerializationException("a union needs JSON")
        if (value is UnknownMember) {
            output.encodeJsonElement(value.raw)
        } else {
            val member = members.first { it.holds(value) }
            output.encodeJsonElement(member.encode(output.json, value))
        }
    }
}
