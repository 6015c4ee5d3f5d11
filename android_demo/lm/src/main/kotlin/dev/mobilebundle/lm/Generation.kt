package dev.mobilebundle.lm

/** Who says a message. [wireName]: in the runner's JSON. */
enum class Role(val wireName: String) { SYSTEM("system"), USER("user"), ASSISTANT("assistant") }

/** One message of a conversation. */
data class Message(val role: Role, val text: String)

/**
 * How words are chosen. [temperature] 0 always takes the likeliest; [topK] 0, [topP] 1 and [minP] 0 leave nothing out.
 * [minP]: tokens below that share of the likeliest one's probability are left out. [repetitionPenalty] 1 is none;
 * [repetitionWindow]: how many tokens back it looks, null for the runner's choice.
 */
data class Sampling @JvmOverloads constructor(
    val temperature: Float = 0f,
    val topK: Int = 0,
    val topP: Float = 1f,
    val repetitionPenalty: Float = 1f,
    val seed: Long = 0,
    val minP: Float = 0f,
    val repetitionWindow: Int? = null,
)

/** What is asked of a model. */
sealed class GenerationRequest {
    abstract val maxNewTokens: Int
    abstract val sampling: Sampling

    /**
     * The answer ends before the first of these texts that would be in it, wherever tokens begin and end: at most 8, of 1 to
     * 256 bytes of UTF-8 each. What may become one of them is told only when it is clear that it does not.
     */
    abstract val stop: List<String>

    /** null: whatever the model likes. One whose memory this phone has not beside the model's is [ModelError.DoesNotFit]. */
    abstract val form: AnswerForm?

    /** A text to continue. */
    data class Text @JvmOverloads constructor(
        val prompt: String,
        override val maxNewTokens: Int = 128,
        override val sampling: Sampling = Sampling(),
        override val stop: List<String> = emptyList(),
        override val form: AnswerForm? = null,
    ) : GenerationRequest()

    /**
     * A conversation to answer, by the model's own chat template. Send all of it every time: what the model has computed
     * already is not computed again. One that ends with the assistant's message has that message continued. [thinking]:
     * whether the model is to think first, null for what its template does by itself; where the template cannot switch it
     * (`chat_thinking` of the manifest is false) the answer is [ModelError.BadRequest].
     */
    data class Chat @JvmOverloads constructor(
        val messages: List<Message>,
        override val maxNewTokens: Int = 128,
        override val sampling: Sampling = Sampling(),
        val thinking: Boolean? = null,
        override val stop: List<String> = emptyList(),
        override val form: AnswerForm? = null,
    ) : GenerationRequest()
}

/**
 * What happens while a model answers, in this order: some [Reading] where the prompt is long, one [Started], many [Text],
 * one [Finished]; or [Failed] at any time.
 */
sealed class GenerationEvent {
    /** Of the prompt, [doneTokens] of [totalTokens] are read. */
    data class Reading(val doneTokens: Int, val totalTokens: Int) : GenerationEvent()

    /**
     * The prompt is read. [keptTokens] of [promptTokens] were still there from the request before; [droppedMessages] of the
     * conversation, the oldest, were left out because it would not fit the context.
     */
    data class Started(
        val promptTokens: Int,
        val keptTokens: Int,
        val droppedMessages: Int,
        val seconds: Double,
    ) : GenerationEvent()

    /** More of the answer: whole characters, to be appended. [tokens]: of the answer, with those of this text. */
    data class Text(val text: String, val tokens: Int) : GenerationEvent()

    /** The answer is complete. */
    data class Finished(val stats: GenerationStats) : GenerationEvent()

    /** There is no more of the answer; what came is still good. */
    data class Failed(val error: ModelError) : GenerationEvent()
}

/** Is told what happens to a request, on the model's thread. From Java it is a lambda without a result. */
fun interface GenerationListener {
    fun onEvent(event: GenerationEvent)
}

/** A request that was made: what it becomes is told to its listener. */
interface Generation {
    /** Whether its last event was told: [GenerationEvent.Finished] or [GenerationEvent.Failed]. */
    val isFinished: Boolean

    /**
     * Stops this request and no other, whatever state it is in; it ends with [FinishReason.CANCELLED]. One that is finished is
     * left alone.
     */
    fun cancel()
}

/** Why an answer ended: by the model itself, before a text of [GenerationRequest.stop], by a limit, or by who asked. */
enum class FinishReason { END, STOP, LENGTH, CONTEXT, CANCELLED }

/**
 * What an answer cost. Memory is of the model's process, as the kernel counts it. [stateBytes]: of the file that
 * [LanguageModel.save] would write now; 0: nothing was read.
 */
data class GenerationStats(
    val reason: FinishReason,
    val promptTokens: Int,
    val tokens: Int,
    val tokensPerSecond: Double,
    val promptTokensPerSecond: Double,
    val firstTokenSeconds: Double,
    val memory: ProcessMemory,
    val stateBytes: Long,
)

/** [anonymousBytes] is what the process holds for itself; the rest of [peakBytes] the kernel may drop and read again. */
data class ProcessMemory(val peakBytes: Long, val anonymousBytes: Long, val swappedBytes: Long, val majorFaults: Long)
