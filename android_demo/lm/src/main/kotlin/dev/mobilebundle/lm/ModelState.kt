package dev.mobilebundle.lm

/** What a [LanguageModel] is doing, for a screen to render. */
sealed class ModelState {
    /** Nothing is open. */
    object Closed : ModelState()

    /** A bundle is being opened. [installed]: the share that is decoded (0..1) while that goes on, else null. */
    data class Loading(val installed: Float?) : ModelState()

    /** It waits for a request. */
    data class Ready(val model: LoadedModel) : ModelState()

    /** It is answering. */
    data class Generating(val model: LoadedModel) : ModelState()

    /** Its process was ended to give memory back; the next request starts it again. */
    data class Released(val reason: ReleaseReason) : ModelState()

    /** It could not be opened, or its process ended by itself; the next request tries again. */
    data class Failed(val error: ModelError) : ModelState()
}

/** What an open model is. [predicted]: bytes when the whole context is in use. */
data class LoadedModel(
    val kernels: String,
    val threads: Int,
    val context: Int,
    val loadSeconds: Double,
    val predictedPeakBytes: Long,
    val predictedAnonymousBytes: Long,
)
