package carrpc.wire

import kotlinx.serialization.KSerializer
import kotlinx.serialization.serializer

/** A request by its name, with the types that go with it. */
class RpcMethod<P, R>(val name: String, val params: KSerializer<P>, val result: KSerializer<R>)

/** A notification by its name, with the type that goes with it. */
class RpcNotification<P>(val name: String, val params: KSerializer<P>)

inline fun <reified P, reified R> method(name: String): RpcMethod<P, R> =
    RpcMethod(name, serializer<P>(), serializer<R>())

inline fun <reified P> notification(name: String): RpcNotification<P> =
    RpcNotification(name, serializer<P>())
