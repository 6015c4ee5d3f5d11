package dev.mobilebundle.lm

/**
 * What a model has read and answered, as it is in a file. [tokens]: that need not be read again; [bytes]: of the file;
 * [seconds]: that writing or reading it took.
 */
data class SavedState(val tokens: Int, val bytes: Long, val seconds: Double)

/** What became of [LanguageModel.save] or [LanguageModel.resume]. */
sealed class SavedStateEvent {
    /** It is in the file, or was taken up from it. */
    data class Done(val state: SavedState) : SavedStateEvent()

    /** The model is as it was; most often [ModelError.StateRefused]. */
    data class Failed(val error: ModelError) : SavedStateEvent()
}

/** Is told once, on the model's thread. From Java it is a lambda without a result. */
fun interface SavedStateListener {
    fun onEnd(event: SavedStateEvent)
}
