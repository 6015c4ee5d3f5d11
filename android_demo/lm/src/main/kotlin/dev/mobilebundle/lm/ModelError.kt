package dev.mobilebundle.lm

/**
 * What can go wrong with a model, each kind with what is needed to explain it. [detail] is for a log, in English. They are
 * handed over in events and states; who would rather catch them throws them (the extensions of `lm-ktx` do).
 */
sealed class ModelError(val detail: String) : Exception(detail) {
    /** The bundle, or a request's form on top of it, needs more memory than this phone has for apps. */
    class DoesNotFit(val fit: MemoryFit) : ModelError("needs ${fit.neededBytes} bytes, ${fit.limitBytes} are for apps")

    /** Nothing was opened: [LanguageModel.load] comes first. Also of what a model without a process should save. */
    class NotOpen : ModelError("no bundle is open")

    /** Another part of the app has a model open: memory is for one at a time. */
    class Busy(val owner: String) : ModelError("$owner has a model open")

    /** A model that is answering was asked again. */
    class StillAnswering : ModelError("it is still answering")

    /** A file of the bundle is damaged, incomplete or of another version. */
    class BundleDamaged(message: String) : ModelError(message)

    /** A file of the bundle cannot be read, or the disk cannot be written. */
    class BundleUnreadable(message: String) : ModelError(message)

    /** The system refused the memory that the model needs. */
    class OutOfMemory(message: String) : ModelError(message)

    /** The runner refused the request: a prompt longer than the context, a setting out of range. */
    class BadRequest(message: String) : ModelError(message)

    /**
     * The state of a conversation could not be written (the disk is full), or not be taken up: it is of another model, of an
     * older version, longer than the context, or damaged. Such a file is of no more use.
     */
    class StateRefused(message: String) : ModelError(message)

    /** The runner could not be started. */
    class RunnerMissing(message: String) : ModelError(message)

    /** The process ended by itself: [signal] 9 is most often the system, which needed its memory. */
    class RunnerDied(val exitCode: Int, message: String) : ModelError("exit status $exitCode $message".trim()) {
        val signal: Int get() = if (exitCode > SIGNAL_BASE) exitCode - SIGNAL_BASE else 0

        private companion object {
            const val SIGNAL_BASE = 128
        }
    }

    /** The process was ended on purpose while it was answering. */
    class WasReleased(val reason: ReleaseReason) : ModelError("released: $reason")

    override fun toString() = "${javaClass.simpleName}: $detail"
}
