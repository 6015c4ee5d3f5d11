package dev.mobilebundle.lm

/** One open model per app: two would share the memory that one was checked against. */
internal object ModelOwner {
    private var holder: Any? = null
    private var name = ""

    /** null when [owner] has it now, else the name of the owner that does. */
    @Synchronized
    fun take(owner: Any, ownerName: String): String? {
        if (holder != null && holder !== owner) return name
        holder = owner
        name = ownerName
        return null
    }

    @Synchronized
    fun give(owner: Any) {
        if (holder === owner) holder = null
    }
}
